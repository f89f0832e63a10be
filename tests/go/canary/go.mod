module canary

go 1.19
