"""What makes up a security key: packets and channels, the commands of CTAP2 and U2F, keys."""
