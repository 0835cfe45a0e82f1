"""What several tests share: tiny models, small data, planted mistakes."""
