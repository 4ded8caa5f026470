"""How good the masks are: predictions, scores, pictures, reports."""
