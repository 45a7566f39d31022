-- A ledger of commit 6b904c3, the last before migrations, its rows copied to tables that it made on PostgreSQL 15, as pg_dump --inserts writes them.
CREATE TABLE public.deliveries (
    webhook_id character varying(16) NOT NULL,
    "order" character varying(16),
    sequence bigint,
    done boolean,
    "row" text
);
CREATE TABLE public.epoch (
    id integer NOT NULL,
    epoch integer,
    beat bigint
);
CREATE SEQUENCE public.epoch_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.epoch_id_seq OWNED BY public.epoch.id;
CREATE TABLE public.folds (
    id integer NOT NULL,
    next bigint,
    blob bytea
);
CREATE SEQUENCE public.folds_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.folds_id_seq OWNED BY public.folds.id;
CREATE TABLE public.happenings (
    id integer NOT NULL,
    at bigint,
    verb character varying(16)
);
CREATE SEQUENCE public.happenings_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.happenings_id_seq OWNED BY public.happenings.id;
CREATE TABLE public.incidents (
    id character varying(16) NOT NULL,
    state character varying(16),
    at bigint,
    resolved_at bigint,
    "row" text
);
CREATE TABLE public.orders (
    id character varying(16) NOT NULL,
    incident character varying(16),
    state character varying(16),
    "row" text
);
CREATE TABLE public.positions (
    id integer NOT NULL,
    next bigint
);
CREATE SEQUENCE public.positions_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.positions_id_seq OWNED BY public.positions.id;
CREATE TABLE public.receipts (
    id integer NOT NULL,
    webhook_id character varying(16),
    "row" text
);
CREATE SEQUENCE public.receipts_id_seq
    AS integer
    START WITH 1
    INCREMENT BY 1
    NO MINVALUE
    NO MAXVALUE
    CACHE 1;
ALTER SEQUENCE public.receipts_id_seq OWNED BY public.receipts.id;
CREATE TABLE public.signals (
    id character varying(16) NOT NULL,
    at bigint,
    incident character varying(16),
    fate character varying(16)
);
ALTER TABLE ONLY public.epoch ALTER COLUMN id SET DEFAULT nextval('public.epoch_id_seq'::regclass);
ALTER TABLE ONLY public.folds ALTER COLUMN id SET DEFAULT nextval('public.folds_id_seq'::regclass);
ALTER TABLE ONLY public.happenings ALTER COLUMN id SET DEFAULT nextval('public.happenings_id_seq'::regclass);
ALTER TABLE ONLY public.positions ALTER COLUMN id SET DEFAULT nextval('public.positions_id_seq'::regclass);
ALTER TABLE ONLY public.receipts ALTER COLUMN id SET DEFAULT nextval('public.receipts_id_seq'::regclass);
INSERT INTO public.deliveries VALUES ('a54c84b6d3729d75', 'ab672dc730c2c69e', 1790000000000, true, '{"webhook_id":"a54c84b6d3729d75","order":"ab672dc730c2c69e","verb":"apply","sequence":1790000000000,"tenant":"acme","key_id":"key-1","body":"{\"order\":\"ab672dc730c2c69e\",\"sequence\":1790000000000,\"incident\":\"85b48e9a8a00eeb5\",\"verb\":\"apply\",\"action\":\"throttle\",\"tenant\":\"acme\",\"key_id\":\"key-1\",\"parameters\":{\"strength\":0.9},\"reason\":\"spend_spike: $600/h over normal (rule stop)\",\"evidence\":{\"observed\":10.0,\"expected\":0.1,\"window\":60000,\"since\":1790000000000,\"usd_per_hour\":600.0,\"usd_so_far\":10.0,\"hot_panes\":6,\"learning\":null,\"guessed_share\":0.0,\"contributions\":[{\"name\":\"1 min over the mean\",\"observed\":10.0,\"expected\":0.1,\"unit\":\"USD\"}],\"known_for\":2592000000,\"shortest\":60000},\"expires_at\":1790000060.0,\"runbook\":\"docs/runbooks/spend_spike.md\"}","due_at":1790000000000,"deadline":1790000060000,"attempts":1,"done":true}');
INSERT INTO public.deliveries VALUES ('cbd04dfc0a4de7a3', 'ab672dc730c2c69e', 1790000060000, true, '{"webhook_id":"cbd04dfc0a4de7a3","order":"ab672dc730c2c69e","verb":"revert","sequence":1790000060000,"tenant":"acme","key_id":"key-1","body":"{\"order\":\"ab672dc730c2c69e\",\"sequence\":1790000060000,\"incident\":\"85b48e9a8a00eeb5\",\"verb\":\"revert\",\"action\":\"throttle\",\"tenant\":\"acme\",\"key_id\":\"key-1\",\"parameters\":{\"strength\":0.9},\"reason\":\"spend_spike: $600/h over normal (rule stop)\",\"evidence\":{\"observed\":10.0,\"expected\":0.1,\"window\":60000,\"since\":1790000000000,\"usd_per_hour\":600.0,\"usd_so_far\":10.0,\"hot_panes\":6,\"learning\":null,\"guessed_share\":0.0,\"contributions\":[{\"name\":\"1 min over the mean\",\"observed\":10.0,\"expected\":0.1,\"unit\":\"USD\"}],\"known_for\":2592000000,\"shortest\":60000},\"expires_at\":1790000060.0,\"runbook\":\"docs/runbooks/spend_spike.md\"}","due_at":1790000060000,"deadline":1790086460000,"attempts":1,"done":true}');
INSERT INTO public.deliveries VALUES ('f589d43181c498cc', 'dc4b2eef62d222ec', 1790000100001, false, '{"webhook_id":"f589d43181c498cc","order":"dc4b2eef62d222ec","verb":"apply","sequence":1790000100001,"tenant":"acme","key_id":"key-3","body":"{\"order\":\"dc4b2eef62d222ec\",\"sequence\":1790000100001,\"incident\":\"6abb2f49abccfe9f\",\"verb\":\"apply\",\"action\":\"throttle\",\"tenant\":\"acme\",\"key_id\":\"key-3\",\"parameters\":{\"strength\":0.9},\"reason\":\"spend_spike: $600/h over normal (rule stop)\",\"evidence\":{\"observed\":10.0,\"expected\":0.1,\"window\":60000,\"since\":1790000100000,\"usd_per_hour\":600.0,\"usd_so_far\":10.0,\"hot_panes\":6,\"learning\":null,\"guessed_share\":0.0,\"contributions\":[{\"name\":\"1 min over the mean\",\"observed\":10.0,\"expected\":0.1,\"unit\":\"USD\"}],\"known_for\":2592000000,\"shortest\":60000},\"expires_at\":1790000160.0,\"runbook\":\"docs/runbooks/spend_spike.md\"}","due_at":1790000109474,"deadline":1790000160000,"attempts":2,"done":false}');
INSERT INTO public.deliveries VALUES ('ffa74911fe42b216', '25c57f67957a3e48', 1790000100000, true, '{"webhook_id":"ffa74911fe42b216","order":"25c57f67957a3e48","verb":"apply","sequence":1790000100000,"tenant":"globex","key_id":"clé-2","body":"{\"order\":\"25c57f67957a3e48\",\"sequence\":1790000100000,\"incident\":\"836a55c567ed6a2c\",\"verb\":\"apply\",\"action\":\"throttle\",\"tenant\":\"globex\",\"key_id\":\"clé-2\",\"parameters\":{\"strength\":0.9},\"reason\":\"spend_spike: $600/h over normal (rule stop)\",\"evidence\":{\"observed\":10.0,\"expected\":0.1,\"window\":60000,\"since\":1790000100000,\"usd_per_hour\":600.0,\"usd_so_far\":10.0,\"hot_panes\":6,\"learning\":null,\"guessed_share\":0.0,\"contributions\":[{\"name\":\"1 min over the mean\",\"observed\":10.0,\"expected\":0.1,\"unit\":\"USD\"}],\"known_for\":2592000000,\"shortest\":60000},\"expires_at\":1790000160.0,\"runbook\":\"docs/runbooks/spend_spike.md\"}","due_at":1790000100000,"deadline":1790000160000,"attempts":1,"done":true}');
INSERT INTO public.epoch VALUES (1, 1, 1790000103000);
INSERT INTO public.folds VALUES (1, 41, '\x00666f6c64ff');
INSERT INTO public.happenings VALUES (1, 1790000103000, 'stop');
INSERT INTO public.happenings VALUES (2, 1790000103000, 'release');
INSERT INTO public.incidents VALUES ('6abb2f49abccfe9f', 'open', 1790000100000, NULL, '{"id":"6abb2f49abccfe9f","family":"spend","kind":"spend_spike","tenant":"acme","key_id":"key-3","opened_at":1790000100000,"heard_at":1790000100000,"evidence":{"observed":10.0,"expected":0.1,"window":60000,"since":1790000100000,"usd_per_hour":600.0,"usd_so_far":10.0,"hot_panes":6,"learning":null,"guessed_share":0.0,"contributions":[{"name":"1 min over the mean","observed":10.0,"expected":0.1,"unit":"USD"}],"known_for":2592000000,"shortest":60000},"severity":"page","holds":[],"partition":0,"state":"open","told":"page","episodes":["e0484281844584a9"],"applies":1,"human_told":false,"reverted_at":null,"quiet_panes":0,"pane":0,"resolved_at":null}');
INSERT INTO public.incidents VALUES ('836a55c567ed6a2c', 'acted', 1790000100000, NULL, '{"id":"836a55c567ed6a2c","family":"spend","kind":"spend_spike","tenant":"globex","key_id":"clé-2","opened_at":1790000100000,"heard_at":1790000100000,"evidence":{"observed":10.0,"expected":0.1,"window":60000,"since":1790000100000,"usd_per_hour":600.0,"usd_so_far":10.0,"hot_panes":6,"learning":null,"guessed_share":0.0,"contributions":[{"name":"1 min over the mean","observed":10.0,"expected":0.1,"unit":"USD"}],"known_for":2592000000,"shortest":60000},"severity":"page","holds":[],"partition":0,"state":"acted","told":"page","episodes":["ce87a0dccf978ba0"],"applies":1,"human_told":false,"reverted_at":null,"quiet_panes":0,"pane":0,"resolved_at":null}');
INSERT INTO public.incidents VALUES ('85b48e9a8a00eeb5', 'resolved', 1790000000000, 1790000075000, '{"id":"85b48e9a8a00eeb5","family":"spend","kind":"spend_spike","tenant":"acme","key_id":"key-1","opened_at":1790000000000,"heard_at":1790000000000,"evidence":{"observed":10.0,"expected":0.1,"window":60000,"since":1790000000000,"usd_per_hour":600.0,"usd_so_far":10.0,"hot_panes":6,"learning":null,"guessed_share":0.0,"contributions":[{"name":"1 min over the mean","observed":10.0,"expected":0.1,"unit":"USD"}],"known_for":2592000000,"shortest":60000},"severity":"page","holds":[],"partition":0,"state":"resolved","told":"page","episodes":[],"applies":1,"human_told":false,"reverted_at":null,"quiet_panes":3,"pane":1790000070000,"resolved_at":1790000075000}');
INSERT INTO public.orders VALUES ('25c57f67957a3e48', '836a55c567ed6a2c', 'applied', '{"id":"25c57f67957a3e48","incident":"836a55c567ed6a2c","step":0,"action":"throttle","tenant":"globex","key_id":"clé-2","strength":0.9,"lease":60000,"created_at":1790000100000,"not_after":1790000160000,"expires_at":1790000160000,"reason":"spend_spike: $600/h over normal (rule stop)","state":"applied","applied_at":1790000100000,"ended_at":null}');
INSERT INTO public.orders VALUES ('6f6f448be21ee154', '6abb2f49abccfe9f', 'applied', '{"id":"6f6f448be21ee154","incident":"6abb2f49abccfe9f","step":0,"action":"notify","tenant":"acme","key_id":"key-3","strength":0.0,"lease":0,"created_at":1790000100000,"not_after":1790000100000,"expires_at":1790000100000,"reason":"notify","state":"applied","applied_at":null,"ended_at":null}');
INSERT INTO public.orders VALUES ('84d511626371dabb', '85b48e9a8a00eeb5', 'applied', '{"id":"84d511626371dabb","incident":"85b48e9a8a00eeb5","step":0,"action":"notify","tenant":"acme","key_id":"key-1","strength":0.0,"lease":0,"created_at":1790000000000,"not_after":1790000000000,"expires_at":1790000000000,"reason":"notify","state":"applied","applied_at":null,"ended_at":null}');
INSERT INTO public.orders VALUES ('ab672dc730c2c69e', '85b48e9a8a00eeb5', 'reverted', '{"id":"ab672dc730c2c69e","incident":"85b48e9a8a00eeb5","step":0,"action":"throttle","tenant":"acme","key_id":"key-1","strength":0.9,"lease":60000,"created_at":1790000000000,"not_after":1790000060000,"expires_at":1790000060000,"reason":"spend_spike: $600/h over normal (rule stop)","state":"reverted","applied_at":1790000000000,"ended_at":1790000060000}');
INSERT INTO public.orders VALUES ('dc4b2eef62d222ec', '6abb2f49abccfe9f', 'sent', '{"id":"dc4b2eef62d222ec","incident":"6abb2f49abccfe9f","step":0,"action":"throttle","tenant":"acme","key_id":"key-3","strength":0.9,"lease":60000,"created_at":1790000100000,"not_after":1790000160000,"expires_at":1790000160000,"reason":"spend_spike: $600/h over normal (rule stop)","state":"sent","applied_at":null,"ended_at":null}');
INSERT INTO public.orders VALUES ('e5b6b005b2a308da', '836a55c567ed6a2c', 'applied', '{"id":"e5b6b005b2a308da","incident":"836a55c567ed6a2c","step":0,"action":"notify","tenant":"globex","key_id":"clé-2","strength":0.0,"lease":0,"created_at":1790000100000,"not_after":1790000100000,"expires_at":1790000100000,"reason":"notify","state":"applied","applied_at":null,"ended_at":null}');
INSERT INTO public.positions VALUES (1, 42);
INSERT INTO public.receipts VALUES (1, 'a54c84b6d3729d75', '{"webhook_id":"a54c84b6d3729d75","at":1790000000000,"ok":true,"retry":false,"said":"HTTP 200","wait":0}');
INSERT INTO public.receipts VALUES (2, 'cbd04dfc0a4de7a3', '{"webhook_id":"cbd04dfc0a4de7a3","at":1790000060000,"ok":true,"retry":false,"said":"HTTP 200","wait":0}');
INSERT INTO public.receipts VALUES (3, 'ffa74911fe42b216', '{"webhook_id":"ffa74911fe42b216","at":1790000100000,"ok":true,"retry":false,"said":"HTTP 200","wait":0}');
INSERT INTO public.receipts VALUES (4, 'f589d43181c498cc', '{"webhook_id":"f589d43181c498cc","at":1790000100000,"ok":false,"retry":true,"said":"ClientConnectorError","wait":0}');
INSERT INTO public.receipts VALUES (5, 'f589d43181c498cc', '{"webhook_id":"f589d43181c498cc","at":1790000101000,"ok":false,"retry":true,"said":"ClientConnectorError","wait":0}');
INSERT INTO public.signals VALUES ('1483514de23fb22f', 1790000100000, '836a55c567ed6a2c', 'decided');
INSERT INTO public.signals VALUES ('68e018d957783081', 1790000100000, '6abb2f49abccfe9f', 'decided');
INSERT INTO public.signals VALUES ('c14f09958523f169', 1790000000000, '85b48e9a8a00eeb5', 'decided');
INSERT INTO public.signals VALUES ('cf0a641816488109', 1790000030000, NULL, 'stale');
SELECT pg_catalog.setval('public.epoch_id_seq', 1, false);
SELECT pg_catalog.setval('public.folds_id_seq', 1, false);
SELECT pg_catalog.setval('public.happenings_id_seq', 2, true);
SELECT pg_catalog.setval('public.positions_id_seq', 1, false);
SELECT pg_catalog.setval('public.receipts_id_seq', 5, true);
ALTER TABLE ONLY public.deliveries
    ADD CONSTRAINT deliveries_pkey PRIMARY KEY (webhook_id);
ALTER TABLE ONLY public.epoch
    ADD CONSTRAINT epoch_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.folds
    ADD CONSTRAINT folds_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.happenings
    ADD CONSTRAINT happenings_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.incidents
    ADD CONSTRAINT incidents_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.orders
    ADD CONSTRAINT orders_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.positions
    ADD CONSTRAINT positions_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.receipts
    ADD CONSTRAINT receipts_pkey PRIMARY KEY (id);
ALTER TABLE ONLY public.signals
    ADD CONSTRAINT signals_pkey PRIMARY KEY (id);
CREATE INDEX ix_deliveries_done ON public.deliveries USING btree (done);
CREATE INDEX ix_deliveries_order ON public.deliveries USING btree ("order");
CREATE INDEX ix_deliveries_sequence ON public.deliveries USING btree (sequence);
CREATE INDEX ix_incidents_resolved_at ON public.incidents USING btree (resolved_at);
CREATE INDEX ix_incidents_state ON public.incidents USING btree (state);
CREATE INDEX ix_orders_incident ON public.orders USING btree (incident);
