"""The comparison behind `make bench`; nothing here is installed with losswire."""
