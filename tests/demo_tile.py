"""How tests read scikit-image's `immunohistochemistry`, a real tissue picture without H&E stain."""

# The bundled checkpoint was not trained on this stain and gives its nuclei low probabilities.
DEMO_DECODING = {"nuclei_threshold": 0.3, "minimum_score": 0}
