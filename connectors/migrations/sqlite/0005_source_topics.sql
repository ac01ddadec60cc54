-- The topics of sources: which number each has, and how often it got more partitions: how many it had each
-- time that it was found with more, a JSON array.
CREATE TABLE source_topics (
    source TEXT NOT NULL,
    number INTEGER NOT NULL CHECK (number BETWEEN 0 AND 65535),
    topic TEXT NOT NULL,
    partitions TEXT NOT NULL CHECK (json_array_length(partitions) > 0),
    came_later INTEGER NOT NULL CHECK (came_later IN (0, 1)),
    PRIMARY KEY (source, number),
    UNIQUE (source, topic)
) STRICT, WITHOUT ROWID;
