"""InstantRT's lean runtime: a bundle in, pictures of a person out, without torch or diffusers."""
