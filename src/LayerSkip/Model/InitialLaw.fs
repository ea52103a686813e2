namespace LayerSkip

/// The law that a new model's weights are drawn from: for a tensor of a Hugging Face name and shape its mean and standard
/// deviation.
[<RequireQualifiedAccess>]
module internal InitialLaw =
    /// What a tensor does in its layer, which decides how it starts.
    type private Role =
        | Norm
        | Bias
        /// The last matrix of a residual branch.
        | ResidualOutput
        | Embedding
        | Head
        | Other

    let private roleOf (name: string) : Role =
        if name.EndsWith "norm.weight" then
            Norm
        elif name.EndsWith ".bias" then
            Bias
        elif name.EndsWith "o_proj.weight" || name.EndsWith "down_proj.weight" then
            ResidualOutput
        elif name = "model.embed_tokens.weight" then
            Embedding
        elif name = "lm_head.weight" then
            Head
        else
            Other

    /// Each residual block's output shrinks with depth, as `spread` to the layer (from 0).
    let random (spread: float) (name: string) (shape: int64[]) : struct (float * float) =
        match roleOf name with
        | Norm -> struct (1.0, 0.1)
        | Bias -> struct (0.0, 0.1)
        | ResidualOutput -> struct (0.0, spread ** float (int (name.Split('.')[2])) / sqrt (float shape[1]))
        | Embedding -> struct (0.0, 1.0)
        | Head
        | Other -> struct (0.0, 1.0 / sqrt (float shape[1]))

    /// Matrices sqrt(2 / 5h) ("small init", arXiv 1910.05895), those that end a residual branch less by sqrt(2L) (GPT-2,
    /// section 2.3), embedding and head 0.02, norms 1, biases 0.
    let toTrain (config: LlamaConfig) (name: string) (_shape: int64[]) : struct (float * float) =
        let small = sqrt (0.4 / float config.Hidden)

        match roleOf name with
        | Norm -> struct (1.0, 0.0)
        | Bias -> struct (0.0, 0.0)
        | ResidualOutput -> struct (0.0, small / sqrt (2.0 * float config.Layers))
        | Embedding
        | Head -> struct (0.0, 0.02)
        | Other -> struct (0.0, small)
