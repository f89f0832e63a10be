module charge

go 1.19
