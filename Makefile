# The same as ./dev, for those who type make.
.PHONY: demo test test-full faults
demo test test-full faults:
	@./dev $@
