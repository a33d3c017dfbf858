package admin

import "time"

// QueueQuery selects messages of a queue.
type QueueQuery struct {
	Address string `json:"address,omitempty"` // sender or recipient; "" is all
	State   string `json:"state,omitempty"`   // queued, deferred, held; "" is all
	After   string `json:"after,omitempty"`   // continue after this id
	Limit   int    `json:"limit,omitempty"`   // 0 is 1,000
}

// QueueListing is a part of a queue.
type QueueListing struct {
	Messages []QueueMessage `json:"messages"`
	More     bool           `json:"more,omitempty"`
}

// QueueID names a message of a queue.
type QueueID struct {
	ID string `json:"id"`
}

// QueueMessage is one message of a queue.
type QueueMessage struct {
	ID          string           `json:"id"`
	State       string           `json:"state"` // queued, deferred, held
	ReversePath string           `json:"reverse_path"`
	Size        int64            `json:"size"`
	Arrival     time.Time        `json:"arrival"`
	Next        time.Time        `json:"next_attempt,omitzero"`
	Attempts    int              `json:"attempts"`
	Reason      string           `json:"reason,omitempty"` // why it is held
	HeldAt      time.Time        `json:"held_at,omitzero"`
	Recipients  []QueueRecipient `json:"recipients,omitempty"`
}

// QueueRecipient is one recipient of a queued message.
type QueueRecipient struct {
	Address string `json:"address"`
	Channel string `json:"channel"`
	NextHop string `json:"next_hop"`
	State   string `json:"state"` // waiting, delivered, bounced
	Reply   string `json:"reply,omitempty"`
}
