package netns

// Directory is how an operator's program gets at the cluster's directory.
type Directory struct{ Domain, URL, Base, BindDN, Password string }
