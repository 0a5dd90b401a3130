"""The catalogue: versions of prices, delivery settings of meters, and archived plans."""
