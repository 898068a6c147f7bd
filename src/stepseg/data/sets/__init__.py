"""One module per data set, each with its `SPEC`; `folder` builds one from a file."""
