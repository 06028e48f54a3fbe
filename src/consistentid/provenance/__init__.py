"""What a picture says of where it came from: record, watermark, signed manifest; put in here, and read here."""
