"""For those who call emojax from their own code: a trained model, NumPy in and out."""
