"""What two or more stages share: encoders, pictures, disk formats, work splitting, devices, messages."""
