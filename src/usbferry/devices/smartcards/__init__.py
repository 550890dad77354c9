"""What makes up a card reader: commands of cards, and a card."""
