"""What is heard of other hosts and tried to reach them: datagrams, multicast, routers, paths."""
