"""How shared weights and alpha are trained."""
