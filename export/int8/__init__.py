"""8-bit integers in place of fp32: files, and the training that gets a network used to them."""
