"""Images without a data set: decoding files, random fields, what a camera does to a scene. Builders use it, too."""
