"""What gptplan puts right in Colossal-AI 0.5.0, each with the cause."""
