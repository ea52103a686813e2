namespace LayerSkip

open System
open System.Collections.Generic
open TorchSharp

/// Adam with decoupled weight decay (arXiv 1711.05101, algorithm 2), and what it is set to.
type AdamWOptions = {
    Beta1: float
    Beta2: float
    Epsilon: float
    /// Of matrices only: norms and biases do not decay.
    WeightDecay: float
}

/// First and second moments of each parameter, in its order and shape, and how often each was updated.
[<NoEquality; NoComparison>]
type AdamWState = {
    First: Tensor[]
    Second: Tensor[]
    Updates: int[]
} with

    /// Every moment: what to dispose.
    static member TensorsOf(state: AdamWState) : seq<Tensor> = Seq.append state.First state.Second

/// The optimiser, with its moments in the parameters' dtype and on their device.
[<RequireQualifiedAccess>]
module AdamW =
    /// Betas 0.9 and 0.95 as Llama 2 was trained with (arXiv 2307.09288, section 2.2), and its weight decay 0.1.
    let standard: AdamWOptions = { Beta1 = 0.9; Beta2 = 0.95; Epsilon = 1e-8; WeightDecay = 0.1 }

    /// Nothing moved yet. The tensors belong to the caller.
    let start (parameters: Tensor[]) : AdamWState =
        use _noGrad = Scope.noGrad ()
        let zeros () = parameters |> Array.map (fun p -> torch.zeros_like(p).DetachFromDisposeScope())
        { First = zeros (); Second = zeros (); Updates = Array.zeroCreate parameters.Length }

    // A step's numbers: tensors, for a Scalar would have to live as long as the process. Parameters share them, as each is
    // a copy to the device. They belong to the scope around the one that asks.
    let private numbers () : Tensor -> float -> Tensor =
        let made = Dictionary()

        fun like value ->
            let key = struct (value, like.dtype)

            match made.TryGetValue key with
            | true, number -> number
            | _ ->
                let number =
                    Scope.one (fun () -> (Tensors.ofFloats [||] [| value |]).``to``(like.dtype, like.device))

                made.Add(key, number.MoveToOuterDisposeScope())
                number

    /// The square root of the sum of all squares, in float64; 0 where there is no gradient.
    let norm (gradients: Tensor option[]) : float =
        use _inference = Scope.inference ()

        match gradients |> Array.choose id with
        | [||] -> 0.0
        | gradients ->
            // One read of the device for all.
            gradients
            |> Array.map (fun g -> (g * g).sum torch.ScalarType.Float64)
            |> torch.stack
            |> Tensors.toFloats
            |> Array.sum
            |> sqrt

    /// Moves the parameters in place by a learning rate of `rate` (arXiv 1711.05101, algorithm 2, with bias corrections); one
    /// without a gradient stays, and its moments with it. Gradients are multiplied by `gradientScale` first. All arrays are
    /// in the order of the parameters; the moments of `state` change in place too.
    let step
        (options: AdamWOptions)
        (rate: float)
        (gradientScale: float)
        (parameters: Tensor[])
        (gradients: Tensor option[])
        (state: AdamWState)
        : AdamWState =
        use _inference = Scope.inference ()
        let number = numbers ()

        let update (p: Tensor) (g: Tensor) (m: Tensor) (v: Tensor) (count: int) =
            use _scope = Scope.start ()
            let g =
                if gradientScale = 1.0 then
                    g
                else
                    g * number g gradientScale

            if options.WeightDecay <> 0.0 && p.shape.Length > 1 then
                p.mul_ (number p (1.0 - rate * options.WeightDecay)) |> ignore

            let beta1, beta2 = options.Beta1, options.Beta2
            m.mul_(Scalars.ofFloat beta1).add_(g, Scalars.ofFloat (1.0 - beta1)) |> ignore
            v.mul_(Scalars.ofFloat beta2).addcmul_(g, g, Scalars.ofFloat (1.0 - beta2)) |> ignore

            // Bias corrections of both moments (Adam, arXiv 1412.6980, section 3).
            let first, second = 1.0 - beta1 ** float count, 1.0 - beta2 ** float count
            let root = v.sqrt().mul_(number v (1.0 / sqrt second))
            let denominator = Scalars.addNumberInPlace options.Epsilon root
            let change = (m / denominator).mul_(number m (-rate / first))
            Scalars.addInPlace change p |> ignore

        let updates =
            state.Updates
            |> Array.mapi (fun i count -> if gradients[i].IsSome then count + 1 else count)

        for i in 0 .. parameters.Length - 1 do
            gradients[i]
            |> Option.iter (fun g -> update parameters[i] g state.First[i] state.Second[i] updates[i])

        { state with Updates = updates }
