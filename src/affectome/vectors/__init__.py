"""Emotion vectors: contrasts of mean activations, denoising, reliability, their file and its exports."""
