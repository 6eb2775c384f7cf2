"""Side-by-side measurements on real data; ``make bench`` runs them."""
