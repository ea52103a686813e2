namespace LayerSkip

open System
open System.Buffers
open LayerSkip.Kernels

/// Hidden states after a layer, counted from 1: [1; rows; hidden], of positions from `Start`.
[<NoEquality; NoComparison>]
type ExitStates = { Layer: int; Start: int; States: Tensor }

[<RequireQualifiedAccess>]
module ExitStates =
    /// A copy of what `Model.forwardEach` shows after a layer. The tensor is of the scope at hand.
    let ofHidden (layer: int) (hidden: Hidden) : ExitStates = {
        Layer = layer
        Start = hidden.Start
        States = hidden.Read()
    }

    /// `count` of the rows from `first`, over the same memory.
    let rows (first: int) (count: int) (states: ExitStates) : ExitStates = {
        states with
            Start = states.Start + first
            States = states.States.narrow (1L, int64 first, int64 count)
    }

/// A token, and how probable it is.
[<Struct>]
type TokenProbability = { Id: int; Probability: float }

/// What an exit makes of a token that somebody asks for.
[<Struct>]
type TokenReading = {
    Id: int
    /// ln of its probability.
    LogProbability: float
    /// 1 for what greedy decoding takes, and one more for each token that it would take before this one.
    Rank: int
}

/// What an exit says at a position.
type ExitRow = {
    /// The largest logit's; of equal ones the lowest id, as in decoding.
    Argmax: int
    /// The argmax's: the exit's confidence.
    Probability: float
    /// Of the whole law, in nats: from 0 to ln of the vocabulary.
    Entropy: float
    /// ln of the sum of exp(logit), in nats.
    LogSumExp: float
    /// The most probable tokens, the most probable first and of equal ones the lowest id; as many as were asked for.
    Top: TokenProbability[]
    /// Of the tokens that were asked for, in their order.
    Targets: TokenReading[]
}

/// What an exit says at a position, beside what the last layer says there.
type ComparedRow = {
    Row: ExitRow
    /// KL(last layer || exit), in nats: what is lost by taking the exit's law for the model's (the tuned lens' forward KL,
    /// arXiv 2303.08112, section 2). It weighs tokens by the model's law, so it is large where the exit has no room for what the
    /// model would say, whatever the exit itself is sure of; 0 of the last layer.
    Kl: float
    /// Of the last layer's argmax.
    Final: TokenReading
}

/// What is asked of each row beside its choice.
type ReadoutAsk = {
    /// How many of the most probable tokens; 0: none.
    Top: int
    /// Ids to read, [rows][any number]; [||] where none are.
    Targets: int[][]
}

/// What exits say: hidden states through the shared norm and head, and each row's law in a few numbers, in float64. The logits
/// are those of decoding's head to the bit where the CPU kernels run, whatever rows are read together, so the argmax is what a
/// draft at that exit would be. Rows are read by pieces, on all threads: memory does not grow with them. Where the model's
/// numbers overflow, a LayerSkipException says at which layer and position.
[<RequireQualifiedAccess>]
module Readout =
    /// The argmax, its probability and the law's entropy alone.
    let choices: ReadoutAsk = { Top = 0; Targets = [||] }

    /// Logits that are held at once, in numbers.
    let private pieceNumbers = 2_000_000

    let private piece (weights: Weights) = max 1 (min 64 (pieceNumbers / weights.Config.Vocabulary))

    let private lent (count: int) (body: float[] -> 'T) : 'T =
        let numbers = ArrayPool.Shared.Rent count

        try
            body numbers
        finally
            ArrayPool.Shared.Return numbers

    /// The law of a row of logits, in memory that is given; finite.
    let private lawOf (weights: Weights) (states: ExitStates) (logits: Logits) row numbers memory : RowLaw =
        Logits.copyRow row numbers logits
        let law = RowLaw.ofLogits numbers memory weights.Config.Vocabulary

        if not (RowLaw.isFinite law) then
            Overflow.ofHead weights states.Layer (states.Start + row) |> Check.throw

        law

    /// A result for each of so many rows, on all threads.
    let private onAllThreads (count: int) (body: int -> 'T) : 'T[] =
        let results = Array.zeroCreate count
        Workers.Shared.Run(count, (fun row -> results[row] <- body row))
        results

    /// What `body` makes of each row's law, whose memory is lent until it returns.
    let private ofLaws (weights: Weights) (states: ExitStates) (body: int -> RowLaw -> 'T) : 'T[] =
        let room = RowLaw.room weights.Config.Vocabulary
        let logits = Logits.Tensor(SharedHead.logits weights states.States)

        onAllThreads (Logits.rows logits) (fun row ->
            lent room (fun numbers ->
                lent room (fun memory -> lawOf weights states logits row numbers memory |> body row)))

    let private reading (law: RowLaw) (id: int) : TokenReading = {
        Id = id
        LogProbability = RowLaw.logProbability id law
        Rank = if id = law.Argmax then 1 else RowLaw.rank id law
    }

    let private rowOf (ask: ReadoutAsk) (index: int) (law: RowLaw) : ExitRow = {
        Argmax = law.Argmax
        Probability = RowLaw.probability law.Argmax law
        Entropy = law.Entropy
        LogSumExp = law.LogSumExp
        Top =
            TopK.first ask.Top law.Size law.Logits
            |> Array.map (fun id -> { Id = id; Probability = RowLaw.probability id law })
        Targets =
            if ask.Targets.Length = 0 then
                [||]
            else
                ask.Targets[index] |> Array.map (reading law)
    }

    let private check (weights: Weights) (ask: ReadoutAsk) (states: ExitStates) =
        let rows, vocabulary = int states.States.shape[1], weights.Config.Vocabulary

        if ask.Top < 0 || ask.Top > vocabulary then
            invalidArg (nameof ask) $"the {ask.Top} most probable of {vocabulary} tokens"

        if ask.Targets.Length <> 0 && ask.Targets.Length <> rows then
            invalidArg (nameof ask) $"targets of {ask.Targets.Length} rows for {rows}"

        match ask.Targets |> Seq.concat |> Seq.tryFind (fun id -> id < 0 || id >= vocabulary) with
        | Some id ->
            invalidArg (nameof ask) (LayerSkipError.message (LayerSkipError.UnknownToken(id, vocabulary)))
        | None -> ()

    /// What `body` makes of each piece of rows, given the first of them and how many there are; nothing of a piece outlives it.
    let private byPieces (weights: Weights) (states: ExitStates) (body: int -> int -> 'T[]) : 'T[] =
        let rows, piece = int states.States.shape[1], piece weights
        use _inference = Scope.inference ()

        [| 0..piece .. rows - 1 |]
        |> Array.collect (fun first -> Scope.free (fun () -> body first (min piece (rows - first))))

    /// What an exit says at each row, [rows].
    let rows (weights: Weights) (ask: ReadoutAsk) (states: ExitStates) : ExitRow[] =
        check weights ask states

        byPieces weights states (fun first count ->
            ofLaws weights (ExitStates.rows first count states) (fun row law -> rowOf ask (first + row) law))

    /// What exits say at the same positions beside the last layer, whose states come last: [exits][rows].
    let compared (weights: Weights) (ask: ReadoutAsk) (exits: ExitStates[]) : ComparedRow[][] =
        let last = Array.last exits
        Array.iter (check weights ask) exits

        if last.Layer <> weights.Config.Layers then
            invalidArg (nameof exits) $"layer {last.Layer} of {weights.Config.Layers} stands last"

        let room = RowLaw.room weights.Config.Vocabulary
        let memory () = Array.zeroCreate<float> room
        let held =
            Array.init (min (piece weights) (int last.States.shape[1])) (fun _ ->
                struct (memory (), memory ()))

        byPieces weights last (fun first count ->
            let part = ExitStates.rows first count
            let logits = Logits.Tensor(SharedHead.logits weights (part last).States)

            let finals =
                onAllThreads count (fun row ->
                    let struct (numbers, memory) = held[row]
                    lawOf weights (part last) logits row numbers memory)

            let compare row law = {
                Row = rowOf ask (first + row) law
                Kl = RowLaw.divergence finals[row] law
                Final = reading law finals[row].Argmax
            }

            exits
            |> Array.mapi (fun index exit ->
                if index = exits.Length - 1 then
                    onAllThreads count (fun row -> compare row finals[row])
                else
                    ofLaws weights (part exit) compare)
            |> Array.transpose)
        |> Array.transpose
