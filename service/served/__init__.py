"""The runs that the service serves, and which version of them."""
