"""dCTS: a small CNN scores windows of patches, homogeneous windows become one superpatch each."""
