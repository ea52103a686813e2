namespace LayerSkip

open System

/// What a run does where its loss jumps. A loss or gradient that is no number moves nothing, whatever the rule.
[<RequireQualifiedAccess>]
type SpikeRule =
    /// Ends after several spikes in a row, and at once at what is no number.
    | Stop
    /// Leaves the step's update out: weights and moments stay, data and schedules go on as if it had been made. Ends after
    /// several in a row, as then it is the weights.
    | Skip
    /// Says so and goes on. Ends at what is no number.
    | Warn

[<RequireQualifiedAccess>]
module SpikeRule =
    /// Every rule, under its name on the command line and in checkpoints.
    let all = [ "stop", SpikeRule.Stop; "skip", SpikeRule.Skip; "warn", SpikeRule.Warn ]
    /// As `all` has it.
    let name (rule: SpikeRule) : string = all |> List.find (snd >> (=) rule) |> fst

/// What a run remembers of its losses, to tell a jump from what its data do anyway. A checkpoint holds all of it.
type LossGuard = {
    /// Losses that its mean and variance are of.
    Seen: int
    /// Running means of the losses, and of their squared distances from it, in nats.
    Mean: float
    Variance: float
    /// Spikes since the last step without one.
    InARow: int
    /// Their losses, the latest first, without those that are no numbers.
    Waiting: float list
}

/// A loss beyond its limit.
type Spike = {
    /// Nats a token.
    Loss: float
    Limit: float
    /// With the spikes just before it.
    InARow: int
    /// Whether the step's update was left out.
    IsSkipped: bool
}

/// What is to become of a step.
[<RequireQualifiedAccess>]
type Judgement =
    /// Its loss is as losses were.
    | Calm
    /// Its loss jumped, which the rule lets pass.
    | Spiked of Spike
    /// The run must not go on; why.
    | Ends of string

[<RequireQualifiedAccess>]
module LossGuard =
    /// Nothing seen yet.
    let start: LossGuard = { Seen = 0; Mean = 0.0; Variance = 0.0; InARow = 0; Waiting = [] }

    /// So many spikes in a row are no accident of the data, which come in random order.
    let patience = 8

    // In the first steps a loss may do anything.
    let private settling = 20

    /// What a loss may reach. A nat or two are nothing, however low the losses are; six deviations let data be that are
    /// easy but for some samples, as answers of one word are.
    let limit (guard: LossGuard) : float =
        if guard.Seen < settling then
            infinity
        else
            guard.Mean + max 2.0 (max guard.Mean (6.0 * sqrt guard.Variance))

    let private add (guard: LossGuard) (loss: float) : LossGuard =
        let weight = max 0.05 (1.0 / float (guard.Seen + 1))
        let far = loss - guard.Mean

        {
            guard with
                Seen = min Int32.MaxValue (guard.Seen + 1)
                Mean = guard.Mean + weight * far
                Variance = (1.0 - weight) * (guard.Variance + weight * far * far)
        }

    let private spike (guard: LossGuard) (loss: float) : LossGuard = {
        guard with
            InARow = guard.InARow + 1
            Waiting =
                if Double.IsFinite loss then
                    loss :: guard.Waiting
                else
                    guard.Waiting
    }

    /// Spikes that are over were the data's: they count from now on.
    let private calm (guard: LossGuard) : LossGuard =
        List.fold add { guard with InARow = 0; Waiting = [] } (List.rev guard.Waiting)

    /// Judges a step by its loss, in nats a token, and its gradient's length; and remembers it.
    let judge
        (rule: SpikeRule)
        (guard: LossGuard)
        (loss: float)
        (gradient: float)
        : struct (Judgement * LossGuard) =
        let limit = limit guard
        let isNumber = Double.IsFinite loss && Double.IsFinite gradient

        if isNumber && loss <= limit then
            struct (Judgement.Calm, calm { guard with Waiting = loss :: guard.Waiting })
        else
            let guard = spike guard loss

            let judgement =
                match rule with
                | SpikeRule.Stop
                | SpikeRule.Warn when not isNumber ->
                    Judgement.Ends(
                        if Double.IsFinite loss then
                            $"the gradient is {gradient}"
                        else
                            $"the loss is {loss}"
                    )
                | SpikeRule.Stop
                | SpikeRule.Skip when guard.InARow >= patience ->
                    Judgement.Ends
                        $"the loss is {loss:G4}, after about {guard.Mean:G4}; it jumped {patience} steps ago and has stayed up"
                | SpikeRule.Stop
                | SpikeRule.Skip
                | SpikeRule.Warn ->
                    Judgement.Spiked {
                        Loss = loss
                        Limit = limit
                        InARow = guard.InARow
                        IsSkipped = (rule = SpikeRule.Skip)
                    }

            match rule with
            // Nothing else would make what has stayed the new measure.
            | SpikeRule.Warn when guard.InARow >= patience -> struct (judgement, calm guard)
            | _ -> struct (judgement, guard)
