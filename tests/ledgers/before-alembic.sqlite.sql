-- A ledger of commit 6b904c3, the last before migrations.
BEGIN TRANSACTION;
CREATE TABLE deliveries (
	webhook_id VARCHAR(16) NOT NULL, 
	"order" VARCHAR(16), 
	sequence BIGINT, 
	done BOOLEAN, 
	"row" TEXT, 
	PRIMARY KEY (webhook_id)
);
INSERT INTO "deliveries" VALUES('a54c84b6d3729d75','ab672dc730c2c69e',1790000000000,1,'{"webhook_id":"a54c84b6d3729d75","order":"ab672dc730c2c69e","verb":"apply","sequence":1790000000000,"tenant":"acme","key_id":"key-1","body":"{\"order\":\"ab672dc730c2c69e\",\"sequence\":1790000000000,\"incident\":\"85b48e9a8a00eeb5\",\"verb\":\"apply\",\"action\":\"throttle\",\"tenant\":\"acme\",\"key_id\":\"key-1\",\"parameters\":{\"strength\":0.9},\"reason\":\"spend_spike: $600/h over normal (rule stop)\",\"evidence\":{\"observed\":10.0,\"expected\":0.1,\"window\":60000,\"since\":1790000000000,\"usd_per_hour\":600.0,\"usd_so_far\":10.0,\"hot_panes\":6,\"learning\":null,\"guessed_share\":0.0,\"contributions\":[{\"name\":\"1 min over the mean\",\"observed\":10.0,\"expected\":0.1,\"unit\":\"USD\"}],\"known_for\":2592000000,\"shortest\":60000},\"expires_at\":1790000060.0,\"runbook\":\"docs/runbooks/spend_spike.md\"}","due_at":1790000000000,"deadline":1790000060000,"attempts":1,"done":true}');
INSERT INTO "deliveries" VALUES('cbd04dfc0a4de7a3','ab672dc730c2c69e',1790000060000,1,'{"webhook_id":"cbd04dfc0a4de7a3","order":"ab672dc730c2c69e","verb":"revert","sequence":1790000060000,"tenant":"acme","key_id":"key-1","body":"{\"order\":\"ab672dc730c2c69e\",\"sequence\":1790000060000,\"incident\":\"85b48e9a8a00eeb5\",\"verb\":\"revert\",\"action\":\"throttle\",\"tenant\":\"acme\",\"key_id\":\"key-1\",\"parameters\":{\"strength\":0.9},\"reason\":\"spend_spike: $600/h over normal (rule stop)\",\"evidence\":{\"observed\":10.0,\"expected\":0.1,\"window\":60000,\"since\":1790000000000,\"usd_per_hour\":600.0,\"usd_so_far\":10.0,\"hot_panes\":6,\"learning\":null,\"guessed_share\":0.0,\"contributions\":[{\"name\":\"1 min over the mean\",\"observed\":10.0,\"expected\":0.1,\"unit\":\"USD\"}],\"known_for\":2592000000,\"shortest\":60000},\"expires_at\":1790000060.0,\"runbook\":\"docs/runbooks/spend_spike.md\"}","due_at":1790000060000,"deadline":1790086460000,"attempts":1,"done":true}');
INSERT INTO "deliveries" VALUES('ffa74911fe42b216','25c57f67957a3e48',1790000100000,1,'{"webhook_id":"ffa74911fe42b216","order":"25c57f67957a3e48","verb":"apply","sequence":1790000100000,"tenant":"globex","key_id":"clé-2","body":"{\"order\":\"25c57f67957a3e48\",\"sequence\":1790000100000,\"incident\":\"836a55c567ed6a2c\",\"verb\":\"apply\",\"action\":\"throttle\",\"tenant\":\"globex\",\"key_id\":\"clé-2\",\"parameters\":{\"strength\":0.9},\"reason\":\"spend_spike: $600/h over normal (rule stop)\",\"evidence\":{\"observed\":10.0,\"expected\":0.1,\"window\":60000,\"since\":1790000100000,\"usd_per_hour\":600.0,\"usd_so_far\":10.0,\"hot_panes\":6,\"learning\":null,\"guessed_share\":0.0,\"contributions\":[{\"name\":\"1 min over the mean\",\"observed\":10.0,\"expected\":0.1,\"unit\":\"USD\"}],\"known_for\":2592000000,\"shortest\":60000},\"expires_at\":1790000160.0,\"runbook\":\"docs/runbooks/spend_spike.md\"}","due_at":1790000100000,"deadline":1790000160000,"attempts":1,"done":true}');
INSERT INTO "deliveries" VALUES('f589d43181c498cc','dc4b2eef62d222ec',1790000100001,0,'{"webhook_id":"f589d43181c498cc","order":"dc4b2eef62d222ec","verb":"apply","sequence":1790000100001,"tenant":"acme","key_id":"key-3","body":"{\"order\":\"dc4b2eef62d222ec\",\"sequence\":1790000100001,\"incident\":\"6abb2f49abccfe9f\",\"verb\":\"apply\",\"action\":\"throttle\",\"tenant\":\"acme\",\"key_id\":\"key-3\",\"parameters\":{\"strength\":0.9},\"reason\":\"spend_spike: $600/h over normal (rule stop)\",\"evidence\":{\"observed\":10.0,\"expected\":0.1,\"window\":60000,\"since\":1790000100000,\"usd_per_hour\":600.0,\"usd_so_far\":10.0,\"hot_panes\":6,\"learning\":null,\"guessed_share\":0.0,\"contributions\":[{\"name\":\"1 min over the mean\",\"observed\":10.0,\"expected\":0.1,\"unit\":\"USD\"}],\"known_for\":2592000000,\"shortest\":60000},\"expires_at\":1790000160.0,\"runbook\":\"docs/runbooks/spend_spike.md\"}","due_at":1790000109474,"deadline":1790000160000,"attempts":2,"done":false}');
CREATE TABLE epoch (
	id INTEGER NOT NULL, 
	epoch INTEGER, 
	beat BIGINT, 
	PRIMARY KEY (id)
);
INSERT INTO "epoch" VALUES(1,1,1790000103000);
CREATE TABLE folds (
	id INTEGER NOT NULL, 
	next BIGINT, 
	blob BLOB, 
	PRIMARY KEY (id)
);
INSERT INTO "folds" VALUES(1,41,X'00666F6C64FF');
CREATE TABLE happenings (
	id INTEGER NOT NULL, 
	at BIGINT, 
	verb VARCHAR(16), 
	PRIMARY KEY (id)
);
INSERT INTO "happenings" VALUES(1,1790000103000,'stop');
INSERT INTO "happenings" VALUES(2,1790000103000,'release');
CREATE TABLE incidents (
	id VARCHAR(16) NOT NULL, 
	state VARCHAR(16), 
	at BIGINT, 
	resolved_at BIGINT, 
	"row" TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "incidents" VALUES('85b48e9a8a00eeb5','resolved',1790000000000,1790000075000,'{"id":"85b48e9a8a00eeb5","family":"spend","kind":"spend_spike","tenant":"acme","key_id":"key-1","opened_at":1790000000000,"heard_at":1790000000000,"evidence":{"observed":10.0,"expected":0.1,"window":60000,"since":1790000000000,"usd_per_hour":600.0,"usd_so_far":10.0,"hot_panes":6,"learning":null,"guessed_share":0.0,"contributions":[{"name":"1 min over the mean","observed":10.0,"expected":0.1,"unit":"USD"}],"known_for":2592000000,"shortest":60000},"severity":"page","holds":[],"partition":0,"state":"resolved","told":"page","episodes":[],"applies":1,"human_told":false,"reverted_at":null,"quiet_panes":3,"pane":1790000070000,"resolved_at":1790000075000}');
INSERT INTO "incidents" VALUES('836a55c567ed6a2c','acted',1790000100000,NULL,'{"id":"836a55c567ed6a2c","family":"spend","kind":"spend_spike","tenant":"globex","key_id":"clé-2","opened_at":1790000100000,"heard_at":1790000100000,"evidence":{"observed":10.0,"expected":0.1,"window":60000,"since":1790000100000,"usd_per_hour":600.0,"usd_so_far":10.0,"hot_panes":6,"learning":null,"guessed_share":0.0,"contributions":[{"name":"1 min over the mean","observed":10.0,"expected":0.1,"unit":"USD"}],"known_for":2592000000,"shortest":60000},"severity":"page","holds":[],"partition":0,"state":"acted","told":"page","episodes":["ce87a0dccf978ba0"],"applies":1,"human_told":false,"reverted_at":null,"quiet_panes":0,"pane":0,"resolved_at":null}');
INSERT INTO "incidents" VALUES('6abb2f49abccfe9f','open',1790000100000,NULL,'{"id":"6abb2f49abccfe9f","family":"spend","kind":"spend_spike","tenant":"acme","key_id":"key-3","opened_at":1790000100000,"heard_at":1790000100000,"evidence":{"observed":10.0,"expected":0.1,"window":60000,"since":1790000100000,"usd_per_hour":600.0,"usd_so_far":10.0,"hot_panes":6,"learning":null,"guessed_share":0.0,"contributions":[{"name":"1 min over the mean","observed":10.0,"expected":0.1,"unit":"USD"}],"known_for":2592000000,"shortest":60000},"severity":"page","holds":[],"partition":0,"state":"open","told":"page","episodes":["e0484281844584a9"],"applies":1,"human_told":false,"reverted_at":null,"quiet_panes":0,"pane":0,"resolved_at":null}');
CREATE TABLE orders (
	id VARCHAR(16) NOT NULL, 
	incident VARCHAR(16), 
	state VARCHAR(16), 
	"row" TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "orders" VALUES('84d511626371dabb','85b48e9a8a00eeb5','applied','{"id":"84d511626371dabb","incident":"85b48e9a8a00eeb5","step":0,"action":"notify","tenant":"acme","key_id":"key-1","strength":0.0,"lease":0,"created_at":1790000000000,"not_after":1790000000000,"expires_at":1790000000000,"reason":"notify","state":"applied","applied_at":null,"ended_at":null}');
INSERT INTO "orders" VALUES('ab672dc730c2c69e','85b48e9a8a00eeb5','reverted','{"id":"ab672dc730c2c69e","incident":"85b48e9a8a00eeb5","step":0,"action":"throttle","tenant":"acme","key_id":"key-1","strength":0.9,"lease":60000,"created_at":1790000000000,"not_after":1790000060000,"expires_at":1790000060000,"reason":"spend_spike: $600/h over normal (rule stop)","state":"reverted","applied_at":1790000000000,"ended_at":1790000060000}');
INSERT INTO "orders" VALUES('e5b6b005b2a308da','836a55c567ed6a2c','applied','{"id":"e5b6b005b2a308da","incident":"836a55c567ed6a2c","step":0,"action":"notify","tenant":"globex","key_id":"clé-2","strength":0.0,"lease":0,"created_at":1790000100000,"not_after":1790000100000,"expires_at":1790000100000,"reason":"notify","state":"applied","applied_at":null,"ended_at":null}');
INSERT INTO "orders" VALUES('25c57f67957a3e48','836a55c567ed6a2c','applied','{"id":"25c57f67957a3e48","incident":"836a55c567ed6a2c","step":0,"action":"throttle","tenant":"globex","key_id":"clé-2","strength":0.9,"lease":60000,"created_at":1790000100000,"not_after":1790000160000,"expires_at":1790000160000,"reason":"spend_spike: $600/h over normal (rule stop)","state":"applied","applied_at":1790000100000,"ended_at":null}');
INSERT INTO "orders" VALUES('6f6f448be21ee154','6abb2f49abccfe9f','applied','{"id":"6f6f448be21ee154","incident":"6abb2f49abccfe9f","step":0,"action":"notify","tenant":"acme","key_id":"key-3","strength":0.0,"lease":0,"created_at":1790000100000,"not_after":1790000100000,"expires_at":1790000100000,"reason":"notify","state":"applied","applied_at":null,"ended_at":null}');
INSERT INTO "orders" VALUES('dc4b2eef62d222ec','6abb2f49abccfe9f','sent','{"id":"dc4b2eef62d222ec","incident":"6abb2f49abccfe9f","step":0,"action":"throttle","tenant":"acme","key_id":"key-3","strength":0.9,"lease":60000,"created_at":1790000100000,"not_after":1790000160000,"expires_at":1790000160000,"reason":"spend_spike: $600/h over normal (rule stop)","state":"sent","applied_at":null,"ended_at":null}');
CREATE TABLE positions (
	id INTEGER NOT NULL, 
	next BIGINT, 
	PRIMARY KEY (id)
);
INSERT INTO "positions" VALUES(1,42);
CREATE TABLE receipts (
	id INTEGER NOT NULL, 
	webhook_id VARCHAR(16), 
	"row" TEXT, 
	PRIMARY KEY (id)
);
INSERT INTO "receipts" VALUES(1,'a54c84b6d3729d75','{"webhook_id":"a54c84b6d3729d75","at":1790000000000,"ok":true,"retry":false,"said":"HTTP 200","wait":0}');
INSERT INTO "receipts" VALUES(2,'cbd04dfc0a4de7a3','{"webhook_id":"cbd04dfc0a4de7a3","at":1790000060000,"ok":true,"retry":false,"said":"HTTP 200","wait":0}');
INSERT INTO "receipts" VALUES(3,'ffa74911fe42b216','{"webhook_id":"ffa74911fe42b216","at":1790000100000,"ok":true,"retry":false,"said":"HTTP 200","wait":0}');
INSERT INTO "receipts" VALUES(4,'f589d43181c498cc','{"webhook_id":"f589d43181c498cc","at":1790000100000,"ok":false,"retry":true,"said":"ClientConnectorError","wait":0}');
INSERT INTO "receipts" VALUES(5,'f589d43181c498cc','{"webhook_id":"f589d43181c498cc","at":1790000101000,"ok":false,"retry":true,"said":"ClientConnectorError","wait":0}');
CREATE TABLE signals (
	id VARCHAR(16) NOT NULL, 
	at BIGINT, 
	incident VARCHAR(16), 
	fate VARCHAR(16), 
	PRIMARY KEY (id)
);
INSERT INTO "signals" VALUES('c14f09958523f169',1790000000000,'85b48e9a8a00eeb5','decided');
INSERT INTO "signals" VALUES('cf0a641816488109',1790000030000,NULL,'stale');
INSERT INTO "signals" VALUES('1483514de23fb22f',1790000100000,'836a55c567ed6a2c','decided');
INSERT INTO "signals" VALUES('68e018d957783081',1790000100000,'6abb2f49abccfe9f','decided');
CREATE INDEX ix_incidents_resolved_at ON incidents (resolved_at);
CREATE INDEX ix_incidents_state ON incidents (state);
CREATE INDEX ix_orders_incident ON orders (incident);
CREATE INDEX ix_deliveries_done ON deliveries (done);
CREATE INDEX ix_deliveries_order ON deliveries ("order");
CREATE INDEX ix_deliveries_sequence ON deliveries (sequence);
COMMIT;
