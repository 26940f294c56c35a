"""How receivers are asked: the series of panels and rules in their query languages."""
