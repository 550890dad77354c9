"""What sound devices share: USB Audio's descriptors and controls, sources, sinks, and their rates."""
