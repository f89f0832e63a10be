module memtrap.test/collector

go 1.19
