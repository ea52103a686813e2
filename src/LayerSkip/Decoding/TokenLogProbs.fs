namespace LayerSkip

open System.Buffers

/// A token and ln of its probability.
[<Struct>]
type TokenLogProb = { Id: int; LogProb: float }

/// What the model's own law says of a token, and of the likeliest in its place: ln p, of softmax over the raw logits in float64, before
/// penalties, biases, a constraint, temperature and filters (vLLM's default, "raw_logprobs").
type TokenLogProbs = {
    /// The token's own.
    LogProb: float
    /// The likeliest tokens, as many as were asked for, the likeliest first and of equal ones the lowest id. Where the token is among
    /// them, its number is the same to the bit.
    Top: TokenLogProb[]
}

[<RequireQualifiedAccess>]
module TokenLogProbs =
    /// So many of the likeliest may be asked for.
    let most = 20

    /// The fault of a number of likeliest tokens that nobody is told.
    let faults (option: string) (top: int option) : LayerSkipError list =
        top
        |> Option.toList
        |> List.collect (fun top ->
            Check.inRange (0 <= top && top <= most) option (string top) $"0 to {most}")

    /// Of the first rows, as many as `tokens`, each of which follows its row.
    let ofRows (top: int) (tokens: int[]) (logits: Logits) : TokenLogProbs[] =
        let size = Logits.columns logits
        let room = RowLaw.room size
        let numbers, weights = ArrayPool.Shared.Rent room, ArrayPool.Shared.Rent room

        let ofRow row token =
            Logits.copyRow row numbers logits
            let law = RowLaw.ofLogits numbers weights size
            let told id = { Id = id; LogProb = RowLaw.logProbability id law }

            {
                LogProb = RowLaw.logProbability token law
                Top = Logits.largest top row logits |> Array.map told
            }

        try
            Array.mapi ofRow tokens
        finally
            ArrayPool.Shared.Return numbers
            ArrayPool.Shared.Return weights
