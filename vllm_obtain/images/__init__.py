"""Loads the images of a request and checks them against the limits; pixels are never decoded."""
