"""What disks share: SCSI, the bulk-only transport, media, and a FAT file system made of a folder."""
