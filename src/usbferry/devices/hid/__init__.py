"""What HID devices share: their reports, their queue of changes, keys and layouts."""
