namespace LayerSkip

open System

/// How fast rotary embeddings turn (RoFormer, arXiv 2104.09864), stretched as the configuration says.
[<RequireQualifiedAccess>]
module RopeAngles =
    /// The angle per position of each pair of dimensions, in radians, the fastest first (half as many as a head has
    /// dimensions), and what cosine and sine are multiplied by: 1 but for YaRN.
    let frequencies (config: LlamaConfig) : struct (float[] * float) =
        let half = config.HeadDim / 2
        let plain = Array.init half (fun i -> config.RopeTheta ** (-2.0 * float i / float config.HeadDim))

        match config.RopeScaling with
        | RopeScaling.Default
        | RopeScaling.Dynamic _ -> struct (plain, 1.0)
        | RopeScaling.Linear factor -> struct (plain |> Array.map (fun f -> f / factor), 1.0)
        | RopeScaling.Divided divisors -> struct (Array.map2 (/) plain divisors, 1.0)
        | RopeScaling.Llama3(factor, low, high, original) ->
            let scaled (f: float) =
                let turns = float original * f / (2.0 * Math.PI)

                if turns > high then
                    f
                elif turns < low then
                    f / factor
                else
                    let smooth = (turns - low) / (high - low)
                    (1.0 - smooth) * f / factor + smooth * f

            struct (plain |> Array.map scaled, 1.0)
        | RopeScaling.Yarn yarn ->
            // The dimension whose angle makes so many turns over the original context (YaRN, equation 17).
            let dimension (turns: float) =
                float config.HeadDim * log (float yarn.Original / (turns * 2.0 * Math.PI))
                / (2.0 * log config.RopeTheta)

            let rounded (round: float -> float) x = if yarn.Truncate then round x else x
            let low = max 0.0 (rounded floor (dimension yarn.BetaFast))
            let high = min (float (config.HeadDim - 1)) (rounded ceil (dimension yarn.BetaSlow))
            let high = if high = low then high + 0.001 else high

            let mixed i f =
                let ramp = Math.Clamp((float i - low) / (high - low), 0.0, 1.0)
                f / yarn.Factor * ramp + f * (1.0 - ramp)

            struct (Array.mapi mixed plain, yarn.AttentionFactor)

    /// The scaling that divisors stand for: Meta's numbers of llama3, which llama.cpp keeps as a table of float32,
    /// where they come to the same angles within 1e-6 of each; else the divisors. Whoever reads a table asks for it,
    /// so that a model's angles have the same bits whichever format it is read from.
    let named (config: LlamaConfig) : RopeScaling =
        match config.RopeScaling with
        | RopeScaling.Divided divisors ->
            let angles scaling =
                let struct (angles, _) = frequencies { config with RopeScaling = scaling }
                angles

            let agree scaling =
                Array.forall2
                    (fun a b -> abs (a / b - 1.0) < 1e-6)
                    (angles scaling)
                    (angles config.RopeScaling)

            RopeScaling.Default
            :: [
                for power in 4..20 -> RopeScaling.Llama3(Array.max divisors, 1.0, 4.0, 1 <<< power)
            ]
            |> List.tryFind agree
            |> Option.defaultValue config.RopeScaling
        | scaling -> scaling
