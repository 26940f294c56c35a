# The same as ./dev, for those who type make.
.PHONY: demo test test-full
demo test test-full:
	@./dev $@
