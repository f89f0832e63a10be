module loaded

go 1.19
