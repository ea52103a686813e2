namespace LayerSkip

open System.Text.Json

/// Perplexity of texts at each exit layer, and how often an exit says what the last layer says. LayerSkip evaluates exits so
/// (section 5.2: perplexity by exit layer, every token leaving at the same one).
[<RequireQualifiedAccess>]
module Perplexity =
    // What scores and summary share.
    let private tokens, bytes, loss, agreed, right = "tokens", "bytes", "loss", "agreed", "right"

    let private count (holds: 'T -> 'T -> bool) (a: 'T[]) (b: 'T[]) =
        Seq.zip a b |> Seq.filter (fun (a, b) -> holds a b) |> Seq.length |> float

    let private score
        (checkpoint: Checkpoint)
        (tokenizer: Tokenizer)
        (exits: int list)
        (item: TextItem)
        : EvalScore =
        let weights = checkpoint.Weights
        let last = weights.Config.Layers
        let targets = Array.tail item.Ids
        let cache = Cache.create weights last (targets.Length)
        use _slab = cache.Slab

        let struct (rows, _) =
            Likelihood.read
                weights
                (List.distinct (exits @ [ last ]))
                targets
                (Array.truncate targets.Length item.Ids)
                cache

        let choices = rows |> List.map (fun (exit, rows) -> exit, Array.map _.Argmax rows) |> Map.ofList

        {
            Item =
                EvalFields.ofNumbers [
                    tokens, [ float targets.Length ]
                    bytes, [ float (TextItems.bytes tokenizer item) ]
                ]
            Exits = [
                for exit, rows in rows do
                    if List.contains exit exits then
                        exit,
                        EvalFields.ofNumbers [
                            loss, [ -(Likelihood.sum rows) ]
                            agreed, [ count (=) choices[exit] choices[last] ]
                            right, [ count (=) choices[exit] targets ]
                        ]
            ]
        }

    let private check (context: int) (options: TextOptions) : LayerSkipError list = [
        for window in Option.toList options.Window do
            yield!
                Check.inRange
                    (2 <= window && window <= context)
                    "window"
                    (string window)
                    $"2 to {context}: the model has a context of {context}"

        for most in Option.toList options.MaxChars do
            yield! Check.atLeast 1 "max-chars" most

            if options.Documents then
                LayerSkipError.Unsupported(
                    "max-chars of documents",
                    "it cuts a file before windows are taken of it; limit the documents instead"
                )
    ]

    let private settings (window: int) (asked: EvalOptions) (json: Utf8JsonWriter) =
        let options = asked.Text
        json.WriteBoolean("no_bos", asked.NoBos)
        json.WriteBoolean("documents", options.Documents)
        json.WriteNumber("window", window)
        options.MaxChars |> Option.iter (fun most -> json.WriteNumber("max_chars", most))

    let private remarks (vocabulary: int) window limit (items: TextItem[]) =
        let taken = items |> Array.truncate (defaultArg limit items.Length)
        let cut = taken |> Array.filter _.IsCut |> Array.length
        let guess = log(float vocabulary).ToString("0.000", System.Globalization.CultureInfo.InvariantCulture)

        [
            $"a uniform guess over {vocabulary} tokens has a cross entropy of {guess}"

            if cut > 0 then
                $"{cut} of {taken.Length} documents are cut at {window} tokens"
        ]

    let private prepare (checkpoint: Checkpoint) (options: EvalOptions) =
        let config = checkpoint.Config
        let text = options.Text

        Check.all (check config.Context text) ()
        |> Result.bind (fun () -> Checkpoint.tokenizer checkpoint)
        |> Result.bind (fun tokenizer ->
            let window = TextItems.window config.Context text
            let exits = EvalOptions.exitLayers [ 1 .. config.Layers ] options

            options.Data
            |> List.map (TextItems.ofFile (EvalOptions.encode tokenizer options) window text options.Limit)
            |> Check.list
            |> Result.map (fun files ->
                let items = Array.concat files

                {
                    Items = items.Length
                    Settings = settings window options
                    Score = fun index -> score checkpoint tokenizer exits items[index]
                    ExitLayers = exits
                    Files = []
                    Remarks = remarks config.Vocabulary window options.Limit items
                }))

    /// Cross entropy in nats a token, and what follows from it: perplexity of tokens and bytes, bits a byte (as
    /// lm-evaluation-harness has them: of sums over all items); the share of positions at which an exit's argmax is the last
    /// layer's, and at which it is the text's own token.
    let private sum (scores: EvalScore list) : EvalSummary =
        let total name = scores |> List.sumBy (fun score -> EvalFields.number name score.Item)
        let exits = EvalScore.exits scores

        let metrics exit =
            let parts name =
                scores
                |> List.choose (fun score ->
                    score
                    |> EvalScore.tryExit exit
                    |> Option.map (fun fields -> EvalFields.number name fields, score.Item))

            let over below name = [ for value, item in parts name -> value, EvalFields.number below item ]

            let entropy = EvalMetric.ratio "cross_entropy" (over tokens loss)

            [
                entropy
                EvalMetric.ofValue "perplexity" (exp entropy.Value)

                // Special tokens alone have no bytes.
                if total bytes > 0.0 then
                    let perByte = (EvalMetric.ratio "" (over bytes loss)).Value
                    EvalMetric.ofValue "bits_per_byte" (perByte / log 2.0)
                    EvalMetric.ofValue "byte_perplexity" (exp perByte)

                EvalMetric.ratio "agreement" (over tokens agreed)
                EvalMetric.ratio "accuracy" (over tokens right)
            ]

        {
            Counts = [ tokens, int (total tokens); bytes, int (total bytes) ]
            Chance = None
            Exits = exits |> List.map (fun exit -> exit, metrics exit)
            Groups = []
            Remarks = []
        }

    /// Perplexity of text files.
    let task: EvalTask = {
        Name = "perplexity"
        About =
            "cross entropy and perplexity, a token and a byte, of text files, and agreement with the last layer"
        Takes = [ "documents"; "window"; "max-chars"; "no-bos" ]
        Prepare = prepare
        Sum = sum
    }
