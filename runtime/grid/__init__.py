"""GPT-2 on the 2D, 2.5D and 3D tensor-parallel layers of Colossal-AI's legacy package."""
