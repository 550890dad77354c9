"""What makes up a media device: the operations of PTP and MTP, their data sets, a folder as their storage."""
