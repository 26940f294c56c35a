# The same as ./dev, for those who type make.
.PHONY: demo test test-full faults bench bench-quick
demo test test-full faults bench bench-quick:
	@./dev $@
