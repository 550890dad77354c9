"""What cameras share: USB Video's descriptors and negotiation, and the pictures they send."""
