"""Who this host is: keys, certificates, the authority and its ledger of members, and the way in."""
