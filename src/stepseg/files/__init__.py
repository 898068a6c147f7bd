"""Files that are whole, harmless and of one writer; nothing here knows what is in them."""
