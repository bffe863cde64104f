"""Loaders, splits and published numbers of the data sets the papers used, which nobody may pass on."""
