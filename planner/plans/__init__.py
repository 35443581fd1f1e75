"""The plan file: question, layout, prediction and proof; read, written and compared."""
