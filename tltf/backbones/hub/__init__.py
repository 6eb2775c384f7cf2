"""Reusable SavedModels (TF Hub, Kaggle Models, own): handles, the layer, the backbones."""
