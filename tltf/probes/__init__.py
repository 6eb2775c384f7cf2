"""Linear heads on fixed features: folds, their optimum at every strength, and the stack of them."""
