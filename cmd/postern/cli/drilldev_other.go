//go:build !linux

package cli

import "errors"

const canFindOwner = false

func socketOwner(string) (int, error) { return 0, errors.New("not possible on this system") }
