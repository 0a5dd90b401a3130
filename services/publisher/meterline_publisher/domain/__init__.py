"""The rules of rating: pure functions over values, without input, output or a clock."""
